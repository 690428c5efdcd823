extension BulletinTemplates {
    /// Those that hold unless an operator gives others.
    public static let builtIn: BulletinTemplates = {
        do {
            return try BulletinTemplates(builtInSources, directory: "built in")
        } catch {
            preconditionFailure("\(error)")
        }
    }()

    /// Their texts, to begin with for templates of one's own.
    public static var builtInSources: [Source] {
        Name.allCases.map { name in
            let text =
                switch name {
                case .subject: subjectTemplate
                case .text: textTemplate
                case .markdown: markdownTemplate
                case .html: htmlTemplate
                }
            return Source(path: "built in \(name.fileName)", name: name.rawValue, text: text)
        }
    }
}

private let subjectTemplate = """
    [{{cluster}}] {{headline}}

    """

private let textTemplate = """
    {{happened}}{{#memory}} {{memory}}{{/memory}}{{#resumer}} {{resumer}}{{/resumer}}\
    {{#clock}} {{clock}}{{/clock}}{{#advice}} {{advice}}{{/advice}}

    """

private let markdownTemplate = """
    **{{headline}}**

    {{happened}}{{#memory}} {{memory}}{{/memory}}
    {{#resumer}}

    {{resumer}}
    {{/resumer}}
    {{#clock}}

    {{clock}}
    {{/clock}}
    {{#advice}}

    {{advice}}
    {{/advice}}

    | | |
    |---|---|
    {{#facts}}
    | {{label}} | {{value}} |
    {{/facts}}

    """

// No script, no picture and nothing from elsewhere: mail programs drop them, and it shall look the same
// for everybody. Styles stand on the elements for the same reason.
private let htmlTemplate = """
    <!doctype html>
    <html lang="en">
    <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>{{headline}}</title>
    </head>
    <body style="margin:0;padding:24px;background:#f4f4f2;color:#1c1c1a;\
    font-family:sans-serif;font-size:16px;line-height:1.5">
    <div style="max-width:640px;margin:0 auto;padding:24px;background:#ffffff;\
    border-top:4px solid {{#failed}}#b3261e{{/failed}}{{^failed}}#2f6f4f{{/failed}}">
    <h1 style="margin:0 0 16px;font-size:20px;line-height:1.3">{{headline}}</h1>
    <p style="margin:0 0 12px">{{happened}}{{#memory}} {{memory}}{{/memory}}</p>
    {{#resumer}}
    <p style="margin:0 0 12px">{{resumer}}</p>
    {{/resumer}}
    {{#clock}}
    <p style="margin:0 0 12px">{{clock}}</p>
    {{/clock}}
    {{#advice}}
    <p style="margin:0 0 12px">{{advice}}</p>
    {{/advice}}
    <table style="margin-top:16px;border-collapse:collapse;font-size:14px">
    {{#facts}}
    <tr>
    <th scope="row" style="padding:4px 16px 4px 0;border-top:1px solid #dddddd;text-align:left;\
    font-weight:normal;color:#5c5c58;white-space:nowrap;vertical-align:top">{{label}}</th>
    <td style="padding:4px 0;border-top:1px solid #dddddd;overflow-wrap:anywhere">{{value}}</td>
    </tr>
    {{/facts}}
    </table>
    </div>
    </body>
    </html>

    """
